"""From a trained student to what runs elsewhere: LiteRT, ExecuTorch, Core ML and browsers, compared with torch."""
