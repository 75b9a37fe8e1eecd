"""The pictures of the documentation, of the demo's data: ``python tests/support/pictures.py`` draws them.

The picture of the report is a screenshot, for which Chromium has to be installed. The others need Pillow and
matplotlib.
"""

import io
import os
import pathlib
import subprocess
import tempfile

from PIL import Image

from ben_secure import cli

PICTURES = pathlib.Path(__file__).parent.parent.parent / "docs" / "pictures"
NAMES = [f"S2A_MSIL2A_20170613T101031_{column}_{row}" for column in (30, 31) for row in (40, 41, 42)]
COMMANDS = [
    ["demo", "tour"],
    ["show", "tour/honest.lmdb", *NAMES, "--output", "sheet.png"],
    ["stats", "tour/honest.lmdb", "--plot", "stats.png"],
    ["audit", "tour/attacked.lmdb", "--format", "html", "--output", "report.html"],
]
BROWSER = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,1150"]


def small(path):
    """A PNG with few colours, which a picture for a page may have."""
    file = io.BytesIO()
    Image.open(path).convert("RGB").quantize(48, dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)
    return file.getvalue()


def main():
    """Draw all of them."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for command in COMMANDS:
            print(cli.main(command))
        subprocess.run([*BROWSER, "--screenshot=report.png", f"file://{folder}/report.html"], check=True)
        for name in ("sheet.png", "stats.png", "report.png"):
            (PICTURES / name).write_bytes(small(name))
        os.chdir("/")


if __name__ == "__main__":
    main()
