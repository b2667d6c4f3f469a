"""The stage `download`: NeRSemble's videos, over HTTP."""
