"""A pure client that tells the story: HTTP and the command line, nothing imported from inside."""
