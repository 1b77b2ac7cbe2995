"""What uses the OpenAPI document as others do: a fuzzer that looks for lies in it, and a generated client."""
