"""The plugin's real servers, by their public API and with real processes."""
