"""The layout engine: PyMuPDF's layout model, with RapidOCR for pages without a text layer. CPU only, no downloads."""
