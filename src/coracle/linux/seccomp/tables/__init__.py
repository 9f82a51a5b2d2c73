"""System call numbers, one module per ABI, imported only while a filter is compiled."""
