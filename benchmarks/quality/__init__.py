"""The alternatives to CSMF on one split: peers, ways to share, and CSMF itself."""
