"""The layouts and annotation formats that ingest reads."""
