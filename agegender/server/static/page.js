// Sends an image to v1/predict and shows the answer. All addresses are relative: the page works under any prefix.

const find = (selector) => document.querySelector(selector);
const COLUMNS = ["age", "interval", "gender", "probability", "detection", "note"];
const COLOURS = { female: "#CC79A7", male: "#56B4E9" }; // distinct to colour-blind eyes too
const UNKNOWN = "#F0E442";
const DOUBTFUL = "#BBBBBB";
const LONGEST_SIDE = 1600; // pixels of the photograph that is shown
const LIVE_SIDE = 480; // pixels of the frames that are sent
const NO_FACE =
  "No face was found. It should look at the camera, upright, and not be small. If the image is one face already, " +
  "cropped as UTKFace crops them, say so in the box above.";

let maxBytes = 20e6;
let coverageNote = ""; // below each table
let lastImage = null; // sent again when the box "one face already" changes
let request = new AbortController();

// ---- words

const percent = (share) => (share >= 0.995 ? ">99 %" : `${Math.round(100 * share)} %`);
const surer = (face) => Math.max(face.p_female, 1 - face.p_female);
const interval = (face) => face.age_interval.map((age) => age.toFixed(0)).join("-");
const count = (faces) => ({ 0: "No face", 1: "One face" })[faces.length] || `${faces.length} faces`;

function cells(face) {
  return [
    face.age === null ? "-" : face.age.toFixed(0),
    face.age_interval === null ? "-" : interval(face),
    face.gender || "-",
    face.p_female === null ? "-" : percent(surer(face)),
    face.score === null ? "-" : face.score.toFixed(2),
    face.note || "-",
  ];
}

function labelLines(face) {
  const lines = [];
  if (face.age !== null) lines.push(face.age.toFixed(0) + (face.age_interval === null ? "" : ` (${interval(face)})`));
  if (face.p_female !== null) lines.push(`${face.gender} ${percent(surer(face))}`);
  return lines;
}

// ---- drawing

function make(name, text = "", attributes = {}) {
  const element = document.createElement(name);
  element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function drawFaces(canvas, answer) {
  const pen = canvas.getContext("2d");
  const scale = canvas.width / answer.width;
  for (const face of answer.faces) {
    const [left, top, right, bottom] = face.box.map((side) => side * scale);
    const colour = face.note ? DOUBTFUL : COLOURS[face.gender] || UNKNOWN;
    pen.strokeStyle = pen.fillStyle = colour;
    pen.lineWidth = Math.max(2, (right - left) / 40);
    pen.strokeRect(left, top, right - left, bottom - top);
    drawLabel(canvas, labelLines(face), [left, top, right, bottom]);
  }
}

// Above the box, below it or, if neither fits, in it; as wide as the box, but never too small to read.
function drawLabel(canvas, lines, [left, top, right, bottom]) {
  const pen = canvas.getContext("2d");
  const setFont = (pixels) => { pen.font = `${pixels}px system-ui, sans-serif`; };
  const widest = () => Math.max(...lines.map((line) => pen.measureText(line).width));
  setFont(10);
  const pixels = Math.max(11, Math.min((10 * (right - left)) / widest(), canvas.height / 12));
  setFont(pixels);
  const [width, height] = [widest() + 6, lines.length * pixels * 1.2 + 4];
  const x = Math.max(0, Math.min(left, canvas.width - width));
  const below = bottom + height <= canvas.height ? bottom : top;
  const y = top >= height ? top - height : below;
  pen.fillRect(x, y, width, height);
  pen.fillStyle = "black";
  pen.textBaseline = "top";
  lines.forEach((line, index) => pen.fillText(line, x + 3, y + 3 + index * pixels * 1.2));
}

async function drawPhotograph(image, answer) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(image);
  } catch {
    return make("p", "Your browser cannot show images of this format.");
  }
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = make("canvas", "", { class: "photograph", role: "img", "aria-label": `${count(answer.faces)}, marked` });
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  drawFaces(canvas, answer);
  return canvas;
}

function tabulate(faces) {
  const table = make("table", "", { class: "faces" });
  table.append(make("caption", `${count(faces)}${faces.length > 1 ? ", from left to right" : ""}.`));
  table.createTHead().insertRow().append(...COLUMNS.map((column) => make("th", column, { scope: "col" })));
  const body = table.createTBody();
  for (const face of faces) {
    // The label is what a narrow screen shows instead of the table's head.
    body.insertRow().append(...cells(face).map((cell, index) => make("td", cell, { "data-label": COLUMNS[index] })));
  }
  return table;
}

// ---- sending

const say = (words) => { find("#picker .trouble").textContent = words; };
const show = (...elements) => find("#answer").replaceChildren(...elements);

async function predict(image, aligned, signal) {
  const response = await fetch(`v1/predict?aligned=${aligned}`, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream" },
    body: image,
    signal,
  });
  const answer = await response.json().catch(() => ({ error: `The server answered with status ${response.status}.` }));
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

async function send(image) {
  request.abort(); // an answer that nobody waits for any more
  request = new AbortController();
  const { signal } = request;
  say("");
  if (!image.size) {
    say("This file is empty. Choose another image.");
    return;
  }
  if (image.size > maxBytes) {
    say(`This file is too large: ${(image.size / 1e6).toFixed(1)} MB. The limit is ${maxBytes / 1e6} MB.`);
    return;
  }
  lastImage = image;
  show(make("p", "Looking ...", { class: "waiting" }));
  try {
    const answer = await predict(image, find(".aligned input").checked, signal);
    const photograph = await drawPhotograph(image, answer);
    if (signal.aborted) return;
    if (answer.faces.length) show(photograph, tabulate(answer.faces), make("p", coverageNote));
    else show(photograph, make("p", NO_FACE, { class: "trouble", role: "alert" }));
  } catch (error) {
    if (!signal.aborted) show(make("p", explain(error), { class: "trouble", role: "alert" }));
  }
}

const explain = (error) => (error instanceof TypeError ? "The server cannot be reached." : error.message);

// ---- choosing, dropping, pasting

find(".choose input").addEventListener("change", (event) => {
  if (event.target.files.length) send(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", (event) => {
  const files = event.clipboardData ? [...event.clipboardData.files] : [];
  if (files.length) send(files[0]);
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault(); // beside the box too: else the browser would leave the page for the file
    find(".drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
  });
}
for (const button of document.querySelectorAll(".example")) {
  button.addEventListener("click", async () => send(await (await fetch(button.querySelector("img").src)).blob()));
}
find(".aligned input").addEventListener("change", () => { if (lastImage) send(lastImage); });

// ---- the camera

const video = find(".view video");
const overlay = find(".view canvas");
let watching = false;

function grab(side) {
  const frame = document.createElement("canvas");
  const scale = Math.min(1, side / Math.max(video.videoWidth, video.videoHeight));
  frame.width = Math.round(video.videoWidth * scale);
  frame.height = Math.round(video.videoHeight * scale);
  frame.getContext("2d").drawImage(video, 0, 0, frame.width, frame.height);
  return new Promise((resolve) => { frame.toBlob(resolve, "image/jpeg", 0.9); });
}

async function openCamera() {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
    find(".live").hidden = false;
    await video.play();
    say("");
  } catch (error) {
    closeCamera();
    say(`The camera cannot be used: ${error.message}`);
  }
}

function closeCamera() {
  setWatching(false);
  if (video.srcObject) video.srcObject.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  find(".live").hidden = true;
}

async function takePicture() {
  const image = await grab(Infinity);
  closeCamera();
  send(image);
}

function setWatching(on) {
  watching = on;
  find(".watch").setAttribute("aria-pressed", String(on));
  find(".rate").textContent = "";
  overlay.width = overlay.width; // clears it
}

// Two frames are on their way at a time, so that the server computes while the page grabs and draws.
async function watch() {
  setWatching(true);
  show();
  const progress = { sent: 0, drawn: 0, answered: 0, since: performance.now() };
  await Promise.all([watchFrames(progress), watchFrames(progress)]);
}

async function watchFrames(progress) {
  while (watching) {
    const number = ++progress.sent;
    try {
      const answer = await predict(await grab(LIVE_SIDE), find(".aligned input").checked);
      if (!watching) return;
      if (number > progress.drawn) {
        progress.drawn = number;
        [overlay.width, overlay.height] = [video.videoWidth, video.videoHeight];
        drawFaces(overlay, answer);
      }
      say("");
      showRate(progress);
    } catch (error) {
      say(explain(error));
      await new Promise((resolve) => { setTimeout(resolve, 1000); });
    }
  }
}

function showRate(progress) {
  progress.answered += 1;
  const seconds = (performance.now() - progress.since) / 1000;
  if (seconds < 1) return;
  find(".rate").textContent = `${(progress.answered / seconds).toFixed(0)} frames a second`;
  [progress.answered, progress.since] = [0, performance.now()];
}

find(".camera").addEventListener("click", openCamera);
find(".shoot").addEventListener("click", takePicture);
find(".stop").addEventListener("click", closeCamera);
find(".watch").addEventListener("click", () => { if (watching) setWatching(false); else watch(); });
// Browsers give pages a camera only on this machine or over https; a telephone offers its own behind "Choose an image".
find(".camera").hidden = !(navigator.mediaDevices && navigator.mediaDevices.getUserMedia);
find("#picker").hidden = false;

// ---- the model

try {
  const model = await (await fetch("v1/model")).json();
  const coverage = model.calibration.age_interval_coverage;
  maxBytes = model.limits.image_bytes;
  find(".megabytes").textContent = String(maxBytes / 1e6);
  coverageNote = coverage === null
    ? "This model has not been calibrated: it gives no intervals, and its probabilities may be too sure."
    : `The interval contains the recorded age ${percent(coverage)} of the time, on images like those of UTKFace.`;
} catch {
  say("The server cannot be reached.");
}
