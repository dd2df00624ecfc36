"""Images with their maps: photographs explained, figures, the local page, the gallery of a report."""
