"""The README's picture, from the demo's predictions: `make demo && python benchmarks/contact_sheet.py`."""

from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
PREDICTIONS = HERE.parent / "runs" / "demo" / "predictions"
SIDE_PX = 128


def main() -> None:
    """docs/overlays.png: one view of eight objects, a defect type each and a good one, above their common scale."""
    folders = sorted(folder for folder in (PREDICTIONS / "overlays").iterdir() if folder.is_dir())
    pictures = [Image.open(sorted(folder.glob("*.png"))[0]) for folder in folders]
    scale = Image.open(PREDICTIONS / "colour_scale.png").convert("RGB")
    sheet = Image.new("RGB", (SIDE_PX * len(pictures), SIDE_PX + scale.height), "white")
    for column, picture in enumerate(pictures):
        sheet.paste(picture.resize((SIDE_PX, SIDE_PX)), (column * SIDE_PX, 0))
    sheet.paste(scale, (0, SIDE_PX))
    sheet.quantize(256).save(HERE.parent / "docs" / "overlays.png", optimize=True)


if __name__ == "__main__":
    main()
