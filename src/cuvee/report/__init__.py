"""The report: results as one self-contained HTML page, the same as Markdown, and every table as Parquet."""
