"""The HTTP edge: OpenAI's paths, shapes and errors."""
