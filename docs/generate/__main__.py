"""Write the generated parts of docs/ anew: `make pages`."""

from pages import pages

for page, text in pages().items():
    if text != page.read_text(encoding="utf-8"):
        page.write_text(text, encoding="utf-8")
        print(f"written: docs/{page.name}")
