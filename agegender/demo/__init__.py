"""The web page: a image in, its faces with their ages and genders out; of the image nothing is kept.

    agegender demo runs/1 --port=7860

The rooms: `page` is the layout and the server, `wording` a image's answer in HTML, `guard` what a visitor may send.
"""

from agegender.demo.page import build_demo, launch, start

__all__ = ["build_demo", "launch", "start"]
