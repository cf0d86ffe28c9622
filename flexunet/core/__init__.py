"""What several packages share: settings, names, errors, scores, regions, tiles, files."""
