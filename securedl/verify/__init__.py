"""Does the server run the owner's network? Samples, comparison, statistics and the report.

Works on plain graphs and arrays and never imports `securedl.he` or `protocol`. Nothing is imported here:
torch comes in with `securedl.verify.samples` alone, so the parts that check answers stay light.
"""
