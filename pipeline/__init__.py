"""What runs, and where: the only wiring, the gate's evaluation, code fingerprints, the local runner."""
