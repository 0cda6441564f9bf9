"""The check of nodes: how fast each computes, copies, decodes, reads and sends, and which is worse than others."""
