// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * A FAKE nvidia-uvm.ko for tests, beside the fake nvidia.ko: its two devices have a dynamic major, which the real one takes too.
 */
#include <linux/fs.h>
#include <linux/module.h>

#include "stub.h"

#define NAME "nvidia-uvm"
#define FIRST 0
#define COUNT 2

static unsigned int major;

static int uvm_open(struct inode *inode, struct file *file)
{
	return 0;
}

static const struct file_operations uvm_fops = {
	.owner = THIS_MODULE,
	.open = uvm_open,
};

static int __init uvm_init(void)
{
	int given;

	/* The reference makes this module depend on nvidia, as the real one does. */
	if (!nvidia_stub_major())
		return -ENODEV;
	given = __register_chrdev(0, FIRST, COUNT, NAME, &uvm_fops);
	if (given < 0)
		return given;
	major = given;
	return 0;
}

static void __exit uvm_exit(void)
{
	__unregister_chrdev(major, FIRST, COUNT, NAME);
}

module_init(uvm_init);
module_exit(uvm_exit);

MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("A fake of NVIDIA's driver for tests: no GPU, no NVIDIA code");
MODULE_VERSION(STUB_VERSION);
