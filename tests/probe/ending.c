/* A container's entrypoint that ends in a chosen way, to see whether the way reaches the host.
 *
 *   ending exit N     exits with code N
 *   ending signal N   dies of signal N
 *   ending fault      reads what is not there, of which the kernel writes a line with the name of this file
 *   ending memory     takes memory, and touches it, until it is killed
 *   ending wait       runs until a signal comes; exits with 100 + the signal's number */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 1 << 20, USAGE = 64 };

/* Not strtol: newer headers bind it to a symbol that older C libraries do not have. */
static int number(const char *text)
{
	int value = 0;

	for (; *text >= '0' && *text <= '9' && value < 1000; text++)
		value = 10 * value + (*text - '0');
	return value;
}

static void die_of(int signal_number)
{
	sigset_t set;

	signal(signal_number, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, signal_number);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	raise(signal_number);
}

static void eat_memory(void)
{
	/* Different bytes in each page: nothing is merged or compressed away. */
	for (unsigned int seed = 1;; seed++) {
		unsigned int *chunk = malloc(CHUNK);

		if (!chunk)
			continue;
		for (size_t i = 0; i < CHUNK / sizeof *chunk; i++)
			chunk[i] = (unsigned int)i * 2654435761u + seed;
		__asm__ volatile("" : : "r"(chunk) : "memory");
	}
}

static int wait_for_signal(void)
{
	sigset_t all;
	int caught = 0;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	puts("waiting");
	fflush(stdout);
	sigwait(&all, &caught);
	return 100 + caught;
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "";

	if (argc == 3 && strcmp(how, "exit") == 0)
		return number(argv[2]);
	if (argc == 3 && strcmp(how, "signal") == 0)
		die_of(number(argv[2]));
	else if (argc == 2 && strcmp(how, "memory") == 0)
		eat_memory();
	else if (argc == 2 && strcmp(how, "fault") == 0)
		return *(volatile int *)8;
	else if (argc == 2 && strcmp(how, "wait") == 0)
		return wait_for_signal();
	fprintf(stderr, "usage: %s exit N | signal N | fault | memory | wait\n", argv[0]);
	return USAGE;
}
