//! The table of driver files that a container may receive, with their capabilities. The host selects files with it; the
//! guest does if a directory of driver files has no manifest.
//!
//! The lists are those of NVIDIA's container toolkit (`nvc_info.c` of libnvidia-container, the graphics mounts of
//! nvidia-container-toolkit), with two additions: a file that other files require also has their
//! capabilities (a decoder requires libcuda), and `display` has all files of `graphics`, as in the toolkit.

use super::Capability;
use super::Capability::{Compute, Display, Graphics, Ngx, Utility, Video};

/// Placeholder for the driver's version in paths and link targets of [`Kind`].
pub const VERSION: &str = "{version}";

/// Kind of a driver file, which determines its name and its path in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `STEM.so.<driver version>` in the library directory.
    Library(&'static str),
    /// A library in the library directory whose name has no driver version.
    Exact(&'static str),
    /// `STEM.so.<its own version>` in the library directory: NVIDIA ships these projects with the driver, with their own
    /// versions.
    Separate(&'static str),
    /// `STEM.so.<driver version>` in a subdirectory of the library directory.
    Sub(&'static str, &'static str),
    /// A program.
    Program(&'static str),
    /// A file at this path in every container, with [`VERSION`] replaced.
    Data(&'static str),
    /// A symbolic link that is not derived from a SONAME.
    Link {
        /// Subdirectory of the library directory, or an absolute path in the container.
        dir: &'static str,
        /// Name of the link.
        name: &'static str,
        /// Its target, with [`VERSION`] replaced.
        target: &'static str,
    },
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverFile {
    /// Kind of the file.
    pub kind: Kind,
    /// Its capabilities, never [`Capability::Compat32`], which is requested in addition to others and adds the 32-bit form of
    /// their libraries.
    pub capabilities: &'static [Capability],
    /// Whether every driver has it. Other files exist only in some versions, or are packaged separately.
    pub required: bool,
}

const fn required(kind: Kind, capabilities: &'static [Capability]) -> DriverFile {
    DriverFile { kind, capabilities, required: true }
}

const fn optional(kind: Kind, capabilities: &'static [Capability]) -> DriverFile {
    DriverFile { kind, capabilities, required: false }
}

/// Graphics files, which are the same for both capabilities in the toolkit.
const DRAWS: &[Capability] = &[Display, Graphics];
/// Files for compute and graphics.
const SHARED: &[Capability] = &[Compute, Display, Graphics];
/// Module directory of X servers, whatever the library directory is.
const XORG: &str = "/usr/lib/xorg/modules/extensions";

/// All driver files.
pub const TABLE: &[DriverFile] = &[
    // CUDA. The encoder, the decoder and ray tracing open libcuda.
    required(Kind::Library("libcuda"), &[Compute, Display, Graphics, Video]),
    required(Kind::Library("libnvidia-ptxjitcompiler"), SHARED),
    required(Kind::Library("libnvidia-nvvm"), &[Compute]),
    optional(Kind::Exact("libnvidia-nvvm70.so.4"), &[Compute]),
    optional(Kind::Library("libnvidia-gpucomp"), SHARED),
    optional(Kind::Library("libnvidia-tileiras"), &[Compute]),
    optional(Kind::Library("libnvidia-fatbinaryloader"), &[Compute]),
    optional(Kind::Library("libcudadebugger"), &[Compute]),
    optional(Kind::Library("libnvidia-allocator"), SHARED),
    optional(Kind::Library("libnvidia-pkcs11"), &[Compute]),
    optional(Kind::Library("libnvidia-pkcs11-openssl3"), &[Compute]),
    optional(Kind::Program("nvidia-cuda-mps-control"), &[Compute]),
    optional(Kind::Program("nvidia-cuda-mps-server"), &[Compute]),
    // OpenCL; its loader, libOpenCL.so.1, is the container's.
    required(Kind::Library("libnvidia-opencl"), &[Compute]),
    optional(Kind::Library("libnvidia-compiler"), &[Compute]),
    required(Kind::Data("/etc/OpenCL/vendors/nvidia.icd"), &[Compute]),
    // Management. The X driver opens libnvidia-cfg.
    required(Kind::Library("libnvidia-ml"), &[Utility]),
    required(Kind::Library("libnvidia-cfg"), &[Display, Utility]),
    required(Kind::Program("nvidia-smi"), &[Utility]),
    required(Kind::Program("nvidia-modprobe"), &[Utility]),
    optional(Kind::Program("nvidia-debugdump"), &[Utility]),
    optional(Kind::Program("nvidia-persistenced"), &[Utility]),
    optional(Kind::Program("nv-fabricmanager"), &[Utility]),
    optional(Kind::Library("libnvidia-nscq"), &[Utility]),
    optional(Kind::Library("libnvidia-sandboxutils"), &[Utility]),
    // Video. libvdpau looks in a directory of its own, by SONAME.
    required(Kind::Library("libnvcuvid"), &[Video]),
    required(Kind::Library("libnvidia-encode"), &[Video]),
    required(Kind::Library("libnvidia-opticalflow"), &[Video]),
    optional(Kind::Sub("vdpau", "libvdpau_nvidia"), &[Video]),
    optional(
        Kind::Link { dir: "vdpau", name: "libvdpau_nvidia.so.1", target: "libvdpau_nvidia.so.{version}" },
        &[Video],
    ),
    // OpenGL, EGL and Vulkan, below the dispatch libraries and loaders that the container brings.
    required(Kind::Library("libGLX_nvidia"), DRAWS),
    required(Kind::Library("libEGL_nvidia"), DRAWS),
    required(Kind::Library("libGLESv1_CM_nvidia"), DRAWS),
    required(Kind::Library("libGLESv2_nvidia"), DRAWS),
    required(Kind::Library("libnvidia-glcore"), DRAWS),
    required(Kind::Library("libnvidia-eglcore"), DRAWS),
    required(Kind::Library("libnvidia-glsi"), DRAWS),
    required(Kind::Library("libnvidia-tls"), DRAWS),
    required(Kind::Library("libnvidia-glvkspirv"), DRAWS),
    optional(Kind::Library("libnvidia-fbc"), DRAWS),
    optional(Kind::Library("libnvidia-ifr"), DRAWS),
    optional(Kind::Library("libnvidia-cbl"), DRAWS),
    optional(Kind::Library("libnvidia-present"), DRAWS),
    optional(Kind::Library("libnvidia-vulkan-producer"), DRAWS),
    optional(
        Kind::Link {
            dir: "",
            name: "libnvidia-vulkan-producer.so",
            target: "libnvidia-vulkan-producer.so.{version}",
        },
        DRAWS,
    ),
    optional(Kind::Library("libnvidia-vksc-core"), DRAWS),
    optional(Kind::Exact("libnvidia-api.so.1"), DRAWS),
    required(Kind::Data("/usr/share/glvnd/egl_vendor.d/10_nvidia.json"), DRAWS),
    required(Kind::Data("/usr/share/vulkan/icd.d/nvidia_icd.json"), DRAWS),
    optional(Kind::Data("/usr/share/vulkan/implicit_layer.d/nvidia_layers.json"), DRAWS),
    optional(Kind::Data("/usr/share/nvidia/nvidia-application-profiles-{version}-rc"), DRAWS),
    // GBM finds a backend by the name of the kernel driver, in a directory of its own.
    optional(
        Kind::Link { dir: "gbm", name: "nvidia-drm_gbm.so", target: "../libnvidia-allocator.so.1" },
        DRAWS,
    ),
    // EGL platforms: projects apart, without which the driver's EGL knows neither Wayland nor GBM.
    optional(Kind::Separate("libnvidia-egl-gbm"), DRAWS),
    optional(Kind::Separate("libnvidia-egl-wayland"), DRAWS),
    optional(Kind::Separate("libnvidia-egl-wayland2"), DRAWS),
    optional(Kind::Separate("libnvidia-egl-xcb"), DRAWS),
    optional(Kind::Separate("libnvidia-egl-xlib"), DRAWS),
    optional(Kind::Data("/usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json"), DRAWS),
    optional(Kind::Data("/usr/share/egl/egl_external_platform.d/10_nvidia_wayland.json"), DRAWS),
    optional(Kind::Data("/usr/share/egl/egl_external_platform.d/09_nvidia_wayland2.json"), DRAWS),
    optional(Kind::Data("/usr/share/egl/egl_external_platform.d/20_nvidia_xcb.json"), DRAWS),
    optional(Kind::Data("/usr/share/egl/egl_external_platform.d/20_nvidia_xlib.json"), DRAWS),
    // Ray tracing.
    optional(Kind::Library("libnvidia-rtcore"), DRAWS),
    optional(Kind::Library("libnvoptix"), DRAWS),
    optional(Kind::Data("/usr/share/nvidia/nvoptix.bin"), DRAWS),
    // An X server in the container.
    optional(Kind::Data("/usr/lib/xorg/modules/drivers/nvidia_drv.so"), &[Display]),
    optional(Kind::Data("/usr/lib/xorg/modules/extensions/libglxserver_nvidia.so.{version}"), &[Display]),
    optional(
        Kind::Link { dir: XORG, name: "libglxserver_nvidia.so", target: "libglxserver_nvidia.so.{version}" },
        &[Display],
    ),
    optional(Kind::Data("/usr/share/X11/xorg.conf.d/nvidia-drm-outputclass.conf"), &[Display]),
    optional(Kind::Data("/usr/share/X11/xorg.conf.d/10-nvidia.conf"), &[Display]),
    // DLSS.
    required(Kind::Library("libnvidia-ngx"), &[Ngx]),
];
