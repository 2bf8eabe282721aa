/* Opens each library that is named, as a program in the container would, and prints the file that the loader took.
 *
 * Output: "NAME PATH" for each that was found, the loader's complaint on standard error for each that was not.
 * Exit: 0 when all were found, 1 when one was not, 2 when the output could not be written. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>

static int open_one(const char *name)
{
	struct link_map *map;
	void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);

	if (!library || dlinfo(library, RTLD_DI_LINKMAP, &map) != 0) {
		fprintf(stderr, "%s: %s\n", name, dlerror());
		return 1;
	}
	printf("%s %s\n", name, map->l_name);
	return 0;
}

int main(int argc, char **argv)
{
	int failed = 0;

	for (int i = 1; i < argc; i++)
		failed |= open_one(argv[i]);
	if (fflush(stdout) != 0)
		return 2;
	return failed;
}
