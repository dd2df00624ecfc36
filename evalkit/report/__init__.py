"""`evalkit report`: everything that finished runs say, as one HTML file that opens from disk."""
