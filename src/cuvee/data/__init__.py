"""The data workshop: files, formats, templates, loss masks, subsets, mixtures, batches. No torch in here."""
