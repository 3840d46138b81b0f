"""Cases in the browser: what was asked, answered and kept, beside the scan."""
