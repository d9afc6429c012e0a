"""The real daemon in processes of its own, over real HTTP, judged by the files that it leaves."""
