"""Jobs: checked, sent, run, asked after."""
