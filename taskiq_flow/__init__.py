"""taskiq-flow-kit: storage for what taskiq pipelines leave behind, and a kit to test them on every storage."""
