// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * /proc/driver/nvidia of the fake nvidia.ko: the same files, fields and spelling as the real driver's 550 branch.
 */
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "stub.h"

#define ROOT "driver/nvidia"

static int version_show(struct seq_file *s, void *unused)
{
	seq_printf(s,
		   "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  %s  Release Build  (stub: a fake for tests)\n"
		   "GCC version:  %s\n",
		   STUB_VERSION, __VERSION__);
	return 0;
}

static int params_show(struct seq_file *s, void *unused)
{
	seq_puts(s, "ResmanDebugLevel: 4294967295\n"
		    "RmLogonRC: 1\n"
		    "ModifyDeviceFiles: 1\n"
		    "DeviceFileUID: 0\n"
		    "DeviceFileGID: 0\n"
		    "DeviceFileMode: 438\n"
		    "InitializeSystemMemoryAllocations: 1\n"
		    "UsePageAttributeTable: 4294967295\n"
		    "EnableMSI: 1\n"
		    "EnableUserNUMAManagement: 1\n"
		    "NvLinkDisable: 0\n"
		    "RmProfilingAdminOnly: 1\n"
		    "RegisterPCIDriver: 1\n"
		    "EnableGpuFirmware: 18\n"
		    "EnableGpuFirmwareLogs: 2\n"
		    "ImexChannelCount: 2048\n"
		    "RegistryDwords: \"\"\n"
		    "ExcludedGpus: \"\"\n");
	return 0;
}

/* GPU n sits at 0000:<n+1>:00.0, where the rig's root ports put the phantoms. */
static int information_show(struct seq_file *s, void *unused)
{
	unsigned int minor = (uintptr_t)s->private;

	/* The real driver asks its resource manager here, whose lock an adapter holds while it initialises. */
	mutex_lock(&rm_lock);
	mutex_unlock(&rm_lock);
	seq_puts(s, "Model: \t\t NVIDIA Stub GPU\n");
	seq_printf(s, "IRQ:   \t\t %u\n", 24 + minor);
	seq_printf(s, "GPU UUID: \t GPU-57ab57ab-57ab-57ab-57ab-%012x\n", minor);
	seq_puts(s, "Video BIOS: \t 00.00.00.00.00\n"
		    "Bus Type: \t PCIe\n"
		    "DMA Size: \t 47 bits\n"
		    "DMA Mask: \t 0x7fffffffffff\n");
	seq_printf(s, "Bus Location: \t 0000:%02x:00.0\n", minor + 1);
	seq_printf(s, "Device Minor: \t %u\n", minor);
	seq_printf(s, "GPU Firmware: \t %s\n", STUB_VERSION);
	seq_puts(s, "GPU Excluded:\t No\n");
	return 0;
}

/*
 * A capability's minor and mode, as the private pointer of its file. Minors follow nv-caps: config and monitor first, then for each GPU
 * its instances; fabric-imex-mgmt comes after all of them.
 */
#define CAP(minor, mode) ((void *)(uintptr_t)((minor) << 12 | (mode)))

static int capability_show(struct seq_file *s, void *unused)
{
	uintptr_t cap = (uintptr_t)s->private;

	seq_printf(s, "DeviceFileMinor: %lu\nDeviceFileMode: %lu\nDeviceFileModify: 1\n", cap >> 12, cap & 0xfff);
	return 0;
}

static int create_gpus(void)
{
	char path[64];

	for (int i = 0; i < gpus; i++) {
		snprintf(path, sizeof(path), ROOT "/gpus/0000:%02x:00.0", i + 1);
		if (!proc_mkdir(path, NULL))
			return -ENOMEM;
		strlcat(path, "/information", sizeof(path));
		if (!proc_create_single_data(path, 0444, NULL, information_show, (void *)(uintptr_t)i))
			return -ENOMEM;
	}
	return 0;
}

static const char *const mig_directories[] = {
	ROOT "/capabilities/gpu0",
	ROOT "/capabilities/gpu0/mig",
	ROOT "/capabilities/gpu0/mig/gi0",
	ROOT "/capabilities/gpu0/mig/gi0/ci0",
};

static const struct capability {
	const char *path;
	void *cap;
	bool mig;
} capabilities[] = {
	{ ROOT "/capabilities/mig/config", CAP(1, 0400), false },
	{ ROOT "/capabilities/mig/monitor", CAP(2, 0444), false },
	{ ROOT "/capabilities/fabric-imex-mgmt", CAP(4323, 0400), false },
	{ ROOT "/capabilities/gpu0/mig/gi0/access", CAP(3, 0444), true },
	{ ROOT "/capabilities/gpu0/mig/gi0/ci0/access", CAP(4, 0444), true },
};

static int create_capabilities(void)
{
	for (size_t i = 0; mig && i < ARRAY_SIZE(mig_directories); i++)
		if (!proc_mkdir(mig_directories[i], NULL))
			return -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(capabilities); i++) {
		const struct capability *c = &capabilities[i];

		if ((!c->mig || mig) && !proc_create_single_data(c->path, 0444, NULL, capability_show, c->cap))
			return -ENOMEM;
	}
	return 0;
}

#define MAX_LINE 512

static ssize_t says_write(struct file *file, const char __user *text, size_t size, loff_t *at)
{
	char *line;

	if (size > MAX_LINE)
		return -EINVAL;
	line = memdup_user_nul(text, size);
	if (IS_ERR(line))
		return PTR_ERR(line);
	pr_err("%s\n", strim(line));
	kfree(line);
	return size;
}

static const struct proc_ops says_ops = {
	.proc_write = says_write,
};

int stub_proc_create(void)
{
	int error = -ENOMEM;

	if (!proc_mkdir(ROOT, NULL))
		return error;
	if (proc_mkdir(ROOT "/gpus", NULL) && proc_mkdir(ROOT "/capabilities", NULL) &&
	    proc_mkdir(ROOT "/capabilities/mig", NULL) && proc_create_single(ROOT "/version", 0444, NULL, version_show) &&
	    proc_create_single(ROOT "/params", 0444, NULL, params_show) &&
	    proc_create(ROOT "/stub-says", 0200, NULL, &says_ops))
		error = create_gpus();
	if (!error)
		error = create_capabilities();
	if (error)
		stub_proc_remove();
	return error;
}

void stub_proc_remove(void)
{
	remove_proc_subtree(ROOT, NULL);
}
