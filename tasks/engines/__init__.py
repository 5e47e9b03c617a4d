"""Pages to Markdown. Of tasks.corpus, only the failure words are used here."""
