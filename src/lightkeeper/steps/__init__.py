"""The walk of a file, one module per step: ingest, replicate, transfer, produce, transform, run, audit, heal, report.

Each step takes a Context, reads and claims, commits, lets the outside do its work with no transaction open, and writes
what came back. Each is safe to run twice and returns how much it did, so that its duty knows whether to go on.
"""
