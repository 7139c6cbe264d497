"""Archives of exports: written piece by piece by any number of workers, put together by one."""
