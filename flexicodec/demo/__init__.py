"""A page that compares a clip with what a codec makes of it: in a browser by gradio, or as one HTML file."""
