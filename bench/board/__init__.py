"""A page of results: every row that was measured or published, clip by clip, as files that need no server."""
