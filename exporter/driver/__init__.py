"""The export, from a request to finished artifacts."""
