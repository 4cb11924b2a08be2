// The image goes to the server as text inside the request: nothing is uploaded, so nothing is left lying there.
const find = (name) => element.querySelector(name);
const say = (words) => { find(".trouble").textContent = words; };
let last = null; // for the box that says "one aligned face"

function ask(address) {
  last = address;
  say("");
  props.value = address;
  trigger("upload");
}

function read(file) {
  if (!file) return;
  if (file.size > props.max_megabytes * 1e6) {
    say(`This file is too large: ${(file.size / 1e6).toFixed(1)} MB. The limit is ${props.max_megabytes} MB.`);
    return;
  }
  const reader = new FileReader();
  reader.onload = () => ask(reader.result);
  reader.onerror = () => say("This file cannot be read.");
  reader.readAsDataURL(file);
}

find("input").addEventListener("change", (event) => {
  read(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", (event) => {
  const files = event.clipboardData ? [...event.clipboardData.files] : [];
  if (files.length) read(files[0]);
});
const drop = find(".drop");
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault(); // beside the box too: else the browser would leave the page for the file
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") read(event.dataTransfer.files[0]);
  });
}
for (const button of element.querySelectorAll(".example")) {
  button.addEventListener("click", () => ask(button.querySelector("img").src));
}
document.addEventListener("agegender:again", () => { if (last) ask(last); });

const video = find("video");
function stop() {
  if (video.srcObject) video.srcObject.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  find(".live").hidden = true;
}
async function start() {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
    find(".live").hidden = false;
    await video.play();
    say("");
  } catch (error) {
    stop();
    say(`The camera cannot be used: ${error.message}`);
  }
}
function shoot() {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  stop();
  ask(canvas.toDataURL("image/jpeg", 0.92));
}
// Browsers give pages a camera only on this machine or over https; a telephone offers its own behind "Choose a image".
find(".camera").hidden = !(navigator.mediaDevices && navigator.mediaDevices.getUserMedia);
find(".camera").addEventListener("click", start);
find(".shoot").addEventListener("click", shoot);
find(".stop").addEventListener("click", stop);
