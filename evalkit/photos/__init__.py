"""Images with their maps: explained photographs, figures, the local page, the gallery of a report."""
