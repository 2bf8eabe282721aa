/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Shared by the parts of the fake nvidia.ko. */
#ifndef STUB_H
#define STUB_H

#include <linux/mutex.h>
#include <linux/types.h>

/* The real driver's limit is higher; this is a whole HGX rack's worth. */
#define STUB_MAX_GPUS 32

#define STUB_MAJOR 195
#define STUB_MINOR_MODESET 254
#define STUB_MINOR_CTL 255

/* GPUs that pretend to be there, and the one whose adapter does not start, or -1. */
extern int gpus;
extern int fail;
extern bool mig;

/* Held while an adapter initialises; readers of a GPU's information take it. */
extern struct mutex rm_lock;

/* The major of all GPUs, by two of the modules; exported. */
int nvidia_stub_major(void);
int nvidia_stub_modeset_major(void);

int stub_proc_create(void);
void stub_proc_remove(void);

#endif
