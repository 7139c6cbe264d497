"""The registry: projects, datasets, snapshots, datums, models and their endpoints."""
