//! Files by which the loaders of Vulkan, EGL and OpenCL find drivers, and modules of the X server.

use super::*;

const VULKAN: &str = r#"{"file_format_version": "1.0.0", "ICD": {"library_path": "libGLX_nvidia.so.0", "api_version": "1.3"}}"#;
const LAYERS: &str = r#"{"layers": [{"name": "a", "library_path": "libGLX_nvidia.so.0"}]}"#;
const EGL: &str = r#"{"ICD": {"library_path": "libEGL_nvidia.so.0"}}"#;
const MESA: &str = r#"{"ICD": {"library_path": "/usr/lib/x86_64-linux-gnu/libvulkan_lvp.so"}}"#;

fn write(f: &Fixture, path: &str, content: &str) {
    let path = f.at(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A container, and a driver that draws.
fn drawing() -> (Fixture, ContainerRequest) {
    let f = fixture();
    let lib = f.at("driver/usr/lib/nvidia");
    for (stem, soname) in [
        ("libGLX_nvidia", "libGLX_nvidia.so.0"),
        ("libEGL_nvidia", "libEGL_nvidia.so.0"),
        ("libnvidia-opencl", "libnvidia-opencl.so.1"),
    ] {
        fs::write(lib.join(format!("{stem}.so.550.163.01")), library(soname)).unwrap();
    }
    write(&f, "driver/usr/share/vulkan/icd.d/nvidia_icd.json", VULKAN);
    write(&f, "driver/usr/share/vulkan/implicit_layer.d/nvidia_layers.json", LAYERS);
    write(&f, "driver/usr/share/glvnd/egl_vendor.d/10_nvidia.json", EGL);
    write(&f, "driver/etc/OpenCL/vendors/nvidia.icd", "libnvidia-opencl.so.1\n");
    let capabilities = BTreeSet::from([Capability::Graphics, Capability::Compute]);
    (f, ContainerRequest { capabilities, ..request() })
}

#[test]
fn files_of_an_image_for_the_drivers_libraries_are_hidden_and_others_stay() {
    let (f, asked) = drawing();
    let stale = [
        "/etc/OpenCL/vendors/old-nvidia.icd",
        "/etc/glvnd/egl_vendor.d/10_nvidia.json",
        "/etc/vulkan/icd.d/nvidia_icd.json",
        "/etc/vulkan/implicit_layer.d/nvidia_layers.json",
        "/usr/share/vulkan/icd.d/nvidia_icd.x86_64.json",
    ];
    let content = |path: &str| match path {
        path if path.contains("OpenCL") => "/usr/lib/libnvidia-opencl.so.535.54.03",
        path if path.contains("egl") => EGL,
        path if path.contains("layer") => LAYERS,
        _ => VULKAN,
    };
    for path in stale {
        write(&f, &format!("root{path}"), content(path));
    }
    let others = [
        ("/usr/share/vulkan/icd.d/lvp_icd.json", MESA),
        // Vulkan's loader reads no file of this name.
        ("/usr/share/vulkan/icd.d/nvidia_icd.json.bak", VULKAN),
        // A platform that the driver has no file for.
        (
            "/usr/share/egl/egl_external_platform.d/10_nvidia_wayland.json",
            r#"{"ICD": {"library_path": "libnvidia-egl-wayland.so.1"}}"#,
        ),
        ("/usr/share/vulkan/icd.d/broken.json", "{"),
        ("/etc/OpenCL/vendors/pocl.icd", "libpocl.so.2.10.0\n"),
        // What stands where the driver's own goes is replaced.
        ("/usr/share/glvnd/egl_vendor.d/10_nvidia.json", EGL),
    ];
    for (path, content) in others {
        write(&f, &format!("root{path}"), content);
    }
    let report = f.layer(&asked).unwrap();
    assert_eq!(report.masked, stale, "{:?}", report.findings());
    let finding = report.findings().into_iter().find(|found| found.code == Code::ImageBundlesDriver).unwrap();
    assert!(finding.message.contains("5 driver files"), "{finding:?}");
    let report = f.copy(&asked).unwrap();
    assert_eq!(report.masked, stale);
    assert_eq!(fs::read_to_string(f.at("root/usr/share/vulkan/icd.d/nvidia_icd.json")).unwrap(), VULKAN);
    assert_eq!(f.copy(&asked).unwrap().changed, 0);
}

#[test]
fn nothing_is_hidden_for_what_the_container_does_not_get() {
    let (f, _) = drawing();
    write(&f, "root/etc/vulkan/icd.d/nvidia_icd.json", VULKAN);
    let compute = ContainerRequest { capabilities: BTreeSet::from([Capability::Compute]), ..request() };
    assert!(f.layer(&compute).unwrap().masked.is_empty());
    let keep = ContainerRequest { driver_files: DriverFiles::Keep, ..drawing().1 };
    assert!(f.layer(&keep).unwrap().masked.is_empty());
}

/// Then the loader reads nothing else, and no GPU shows twice.
#[test]
fn a_file_that_the_environment_names_stays_or_leads_to_the_drivers() {
    let config = |variable: &str, value: &str| {
        let mut config = image::config::Config::default();
        config.env.insert(variable.into(), value.into());
        config.env.insert("NVIDIA_DRIVER_CAPABILITIES".into(), "graphics".into());
        ContainerRequest::of_config(&config).unwrap()
    };
    let path = "/etc/vulkan/icd.d/nvidia_icd.json";
    for (variable, value) in
        [("VK_ICD_FILENAMES", path), ("VK_DRIVER_FILES", "/none:/etc/vulkan/icd.d/nvidia_icd.json")]
    {
        let (f, _) = drawing();
        write(&f, &format!("root{path}"), VULKAN);
        assert!(f.layer(&config(variable, value)).unwrap().masked.is_empty(), "{variable}");
    }
    let (f, _) = drawing();
    write(&f, "root/opt/egl/10_nvidia.json", EGL);
    write(&f, "root/etc/glvnd/egl_vendor.d/a.json", EGL);
    let report = f.layer(&config("__EGL_VENDOR_LIBRARY_DIRS", "/etc/glvnd/egl_vendor.d")).unwrap();
    assert!(report.masked.is_empty(), "{report:?}");

    // Neither what climbs, nor more than a bound.
    let many = vec!["/etc/vulkan/icd.d/x.json"; 1000].join(":");
    assert_eq!(config("VK_DRIVER_FILES", &many).named_files.len(), 64);
    let climbs = "/etc/../etc/vulkan/icd.d/nvidia_icd.json:relative.json:";
    assert!(config("VK_DRIVER_FILES", climbs).named_files.is_empty());

    // As the container toolkit would have put it there.
    let (f, _) = drawing();
    let asked = config("VK_ICD_FILENAMES", path);
    let report = f.copy(&asked).unwrap();
    assert_eq!(
        fs::read_link(f.at("root").join(&path[1..])).unwrap(),
        Path::new("/usr/share/vulkan/icd.d/nvidia_icd.json")
    );
    assert_eq!(report.masked, [""; 0]);
    assert_eq!(f.copy(&asked).unwrap().changed, 0);
}

/// As packages for RPM have them: another name, and the library by its path on their own system.
#[test]
fn a_path_of_the_packages_own_system_leads_to_the_library() {
    let (f, asked) = drawing();
    fs::remove_file(f.at("driver/usr/share/vulkan/icd.d/nvidia_icd.json")).unwrap();
    let of_rpm = VULKAN.replace("libGLX", "/usr/lib64/libGLX");
    let name = format!("driver/usr/share/vulkan/icd.d/nvidia_icd.{}.json", std::env::consts::ARCH);
    write(&f, &name, &of_rpm);
    let report = f.copy(&asked).unwrap();
    assert_eq!(fs::read_to_string(f.at("root/usr/share/vulkan/icd.d/nvidia_icd.json")).unwrap(), of_rpm);
    let link = fs::read_link(f.at("root/usr/lib64/libGLX_nvidia.so.0")).unwrap();
    assert_eq!(link, Path::new(&report.lib_dir).join("libGLX_nvidia.so.0"));
    assert_eq!(f.copy(&asked).unwrap().changed, 0);
}

#[test]
fn modules_of_the_x_server_go_where_the_image_has_its_own() {
    for (there, expected) in [
        (None, "usr/lib/xorg/modules/drivers"),
        (Some("usr/lib64/xorg/modules"), "usr/lib64/xorg/modules/drivers"),
        (Some("usr/lib/xorg/modules"), "usr/lib/xorg/modules/drivers"),
    ] {
        let f = fixture();
        let own = f.at("driver/usr/lib/x86_64-linux-gnu/nvidia/xorg");
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("nvidia_drv.so"), library("nvidia_drv.so")).unwrap();
        if let Some(dir) = there {
            fs::create_dir_all(f.at("root").join(dir)).unwrap();
        }
        let asked = ContainerRequest { capabilities: BTreeSet::from([Capability::Display]), ..request() };
        f.copy(&asked).unwrap();
        assert!(f.at("root").join(expected).join("nvidia_drv.so").exists(), "{there:?}");
    }
}
