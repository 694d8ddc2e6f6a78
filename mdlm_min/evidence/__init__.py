"""What makes a run a result: run folders, tables, claims, verdicts, figures and the report. Nothing here knows torch."""
