"""Questions to ML Metadata: runs, lineage, cleaning, pushes."""
