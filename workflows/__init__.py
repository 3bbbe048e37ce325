"""Workflows to copy: documents, the part that one of them uses, and pictures for those that begin with one. Data only.

`latentgraph run` takes them as files; a new server begins with them stored.
"""
