// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * A FAKE nvidia-modeset.ko for tests, beside the fake nvidia.ko: its one device shares the major of the GPUs.
 */
#include <linux/fs.h>
#include <linux/module.h>

#include "stub.h"

#define NAME "nvidia-modeset"
#define FIRST STUB_MINOR_MODESET
#define COUNT 1

static unsigned int major;

static int modeset_open(struct inode *inode, struct file *file)
{
	return 0;
}

static const struct file_operations modeset_fops = {
	.owner = THIS_MODULE,
	.open = modeset_open,
};

static int __init modeset_init(void)
{
	major = nvidia_stub_major();
	return __register_chrdev(major, FIRST, COUNT, NAME, &modeset_fops);
}

static void __exit modeset_exit(void)
{
	__unregister_chrdev(major, FIRST, COUNT, NAME);
}

/* What the fake nvidia-drm refers to. */
int nvidia_stub_modeset_major(void)
{
	return major;
}
EXPORT_SYMBOL(nvidia_stub_modeset_major);

module_init(modeset_init);
module_exit(modeset_exit);

MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("A fake of NVIDIA's driver for tests: no GPU, no NVIDIA code");
MODULE_VERSION(STUB_VERSION);
