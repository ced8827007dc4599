"""The API described from the code that answers: OpenAPI, AsyncAPI, a page to read."""
