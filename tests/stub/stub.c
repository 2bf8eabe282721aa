// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * A FAKE nvidia.ko for tests. There is no GPU behind it and none of NVIDIA's code in it.
 *
 * It registers the character devices and the /proc files of NVIDIA's driver, with GPUs that are ready as soon as they are opened: what
 * the real driver shows only on real hardware. Names and formats follow NVIDIA's open kernel modules (nv-procfs.c, nv-caps.c).
 *
 *   gpus=N    how many GPUs to pretend, minors 0 to N-1 (default 1; 0 fails to load with ENODEV, as the real driver does)
 *   fail=M    opening the GPU of minor M fails with EIO, and the log says so in the real driver's words
 *   slow=MS   each GPU's first open takes so many milliseconds
 *   stuck=M   slow applies to the GPU of minor M only
 *   mig=1     GPU 0 has one MIG GPU instance with one compute instance
 *   node=NAME a device of another kind takes /dev/NAME, as another driver may; a slash in it makes a directory
 *
 * As in the real driver, one lock is held for the whole of an adapter's initialisation: adapters come up one after the other, and readers of
 * /proc/driver/nvidia/gpus/.../information block meanwhile (rm_init_adapter and nv_procfs_read_gpu_info of 550.163.01).
 *
 * A line written to /proc/driver/nvidia/stub-says appears in the kernel log, as if the driver had said it.
 */
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/pci.h>

#include "stub.h"

#define DYNAMIC_MINORS 8192

int gpus = 1;
module_param(gpus, int, 0444);
MODULE_PARM_DESC(gpus, "number of GPUs to pretend");

int fail = -1;
module_param(fail, int, 0444);
MODULE_PARM_DESC(fail, "minor of the GPU that cannot be opened");

static unsigned int slow;
module_param(slow, uint, 0444);
MODULE_PARM_DESC(slow, "milliseconds that a GPU's first open takes");

static int stuck = -1;
module_param(stuck, int, 0444);
MODULE_PARM_DESC(stuck, "minor of the only GPU that is slow");

static unsigned int asleep;
module_param(asleep, uint, 0444);
MODULE_PARM_DESC(asleep, "milliseconds that the module's init takes");

bool mig;
module_param(mig, bool, 0444);
MODULE_PARM_DESC(mig, "GPU 0 has MIG instances");

static char *node = "";
module_param(node, charp, 0444);
MODULE_PARM_DESC(node, "name below /dev that a device of another kind takes");

/* Parameters that the real driver takes and a plan may therefore give: accepted, without effect. */
static int NVreg_NvLinkDisable;
module_param(NVreg_NvLinkDisable, int, 0444);
static int NVreg_OpenRmEnableUnsupportedGpus;
module_param(NVreg_OpenRmEnableUnsupportedGpus, int, 0444);

static unsigned int users[STUB_MAX_GPUS];

DEFINE_MUTEX(rm_lock);

static int init_adapter(unsigned int minor)
{
	if ((int)minor == fail) {
		pr_err("NVRM: GPU 0000:%02x:00.0: RmInitAdapter failed! (0x62:0x65:1792)\n", minor + 1);
		pr_err("NVRM: GPU 0000:%02x:00.0: rm_init_adapter failed, device minor number %u\n", minor + 1, minor);
		return -EIO;
	}
	if (slow && (stuck < 0 || (int)minor == stuck))
		msleep(slow);
	return 0;
}

static int gpu_open(struct inode *inode, struct file *file)
{
	unsigned int minor = iminor(inode);
	int error = 0;

	if (minor == STUB_MINOR_CTL)
		return 0;
	if (minor >= (unsigned int)gpus)
		return -ENODEV;
	mutex_lock(&rm_lock);
	if (!users[minor])
		error = init_adapter(minor);
	if (!error)
		users[minor]++;
	mutex_unlock(&rm_lock);
	return error;
}

static int gpu_release(struct inode *inode, struct file *file)
{
	unsigned int minor = iminor(inode);

	if (minor >= STUB_MAX_GPUS)
		return 0;
	mutex_lock(&rm_lock);
	users[minor]--;
	mutex_unlock(&rm_lock);
	return 0;
}

static const struct file_operations gpu_fops = {
	.owner = THIS_MODULE,
	.open = gpu_open,
	.release = gpu_release,
};

static int any_open(struct inode *inode, struct file *file)
{
	return 0;
}

static const struct file_operations any_fops = {
	.owner = THIS_MODULE,
	.open = any_open,
};

/*
 * One line of /proc/devices each: the GPUs and the control device are ranges of one major, the rest have a dynamic major. As with the
 * real driver, nvidia-uvm and nvidia-modeset are registered by modules of their own.
 */
static struct region {
	const char *name;
	unsigned int major; /* 0: dynamic */
	unsigned int first;
	unsigned int count;
	const struct file_operations *fops;
	bool registered;
} regions[] = {
	{ "nvidia", STUB_MAJOR, 0, STUB_MINOR_MODESET, &gpu_fops, false },
	{ "nvidiactl", STUB_MAJOR, STUB_MINOR_CTL, 1, &gpu_fops, false },
	{ "nvidia-nvswitch", 0, 0, 256, &any_fops, false },
	{ "nvidia-nvlink", 0, 0, 1, &any_fops, false },
	{ "nvidia-caps", 0, 0, DYNAMIC_MINORS, &any_fops, false },
	{ "nvidia-caps-imex-channels", 0, 0, 2048, &any_fops, false },
};

/* What stands where a node of the driver's belongs. */
static struct miscdevice squatter = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "stub-squatter",
	.fops = &any_fops,
};

static void unregister_regions(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(regions); i++) {
		struct region *r = &regions[i];

		if (r->registered)
			__unregister_chrdev(r->major, r->first, r->count, r->name);
		r->registered = false;
	}
}

static int register_regions(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(regions); i++) {
		struct region *r = &regions[i];
		int major = __register_chrdev(r->major, r->first, r->count, r->name, r->fops);

		if (major < 0) {
			pr_err("NVRM: stub: cannot register %s: %d\n", r->name, major);
			return major;
		}
		if (!r->major)
			r->major = major;
		r->registered = true;
	}
	return 0;
}

static int __init stub_init(void)
{
	int error;

	if (gpus == 0) {
		pr_info("NVRM: No NVIDIA GPU found.\n");
		return -ENODEV;
	}
	if (gpus < 0 || gpus > STUB_MAX_GPUS)
		return -EINVAL;
	if (asleep)
		msleep(asleep);
	error = register_regions();
	if (!error)
		error = stub_proc_create();
	if (!error && *node) {
		squatter.nodename = node;
		error = misc_register(&squatter);
		if (error)
			stub_proc_remove();
	}
	if (error) {
		unregister_regions();
		return error;
	}
	pr_info("NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  %s  Release Build  (stub: a fake for tests)\n",
		STUB_VERSION);
	return 0;
}

static void __exit stub_exit(void)
{
	if (*node)
		misc_deregister(&squatter);
	stub_proc_remove();
	unregister_regions();
}

/* What the fake nvidia-uvm and nvidia-modeset refer to: they cannot be loaded before this, as the real ones cannot. */
int nvidia_stub_major(void)
{
	return STUB_MAJOR;
}
EXPORT_SYMBOL(nvidia_stub_major);

module_init(stub_init);
module_exit(stub_exit);

MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("A fake of NVIDIA's driver for tests: no GPU, no NVIDIA code");
MODULE_VERSION(STUB_VERSION);
