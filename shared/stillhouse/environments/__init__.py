"""Python environments beside the one that runs Stillhouse, for packages whose pins exclude ours."""
