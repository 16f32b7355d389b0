"""Code of the worker's container, handed over in its command: whatever the image is, it has Python and Prefect."""
