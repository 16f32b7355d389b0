"""Code that runs in AWS Lambda: the standard library and the run time's boto3, nothing else.

The asset holds this folder at its root, so the modules import each other relatively.
"""
