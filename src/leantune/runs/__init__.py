"""Settings and a table become a run folder."""
