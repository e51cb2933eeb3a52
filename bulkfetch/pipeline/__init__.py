"""From input row to manifest row: what lies between the Protocols, and knows nothing behind them."""
