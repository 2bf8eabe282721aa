//! Computes the position of each module in a load order as depmod does, so that our order equals
//! libkmod's.
//!
//! depmod sorts all modules topologically, starting with those that nothing depends on, the last
//! root first. A list of dependencies is sorted by this position, and libkmod loads it from its
//! end. The order of each module's dependencies, which is that of its symbols, breaks ties.

use super::index::Index;
use std::collections::BTreeMap;

/// Position by index in [`Index::modules`]; a smaller one loads later. Members of a dependency
/// cycle have none.
pub(super) fn positions(index: &Index, dependencies: &[Vec<usize>]) -> Vec<Option<usize>> {
    let count = index.modules.len();
    let mut users = vec![0_usize; count];
    for dependency in dependencies.iter().flatten() {
        users[*dependency] += 1;
    }
    let mut roots: Vec<usize> = (0..count).filter(|module| users[*module] == 0).collect();
    let mut positions = vec![None; count];
    let mut next = 0;
    while let Some(module) = roots.pop() {
        positions[module] = Some(next);
        next += 1;
        for dependency in &dependencies[module] {
            users[*dependency] -= 1;
            if users[*dependency] == 0 {
                roots.push(*dependency);
            }
        }
    }
    positions
}

/// Dependencies of each module as indices. A name that is neither a module nor built in is returned
/// as missing.
pub(super) fn edges(index: &Index) -> (Vec<Vec<usize>>, Vec<(usize, String)>) {
    let by_name: BTreeMap<&str, usize> =
        index.modules.iter().enumerate().map(|(at, module)| (module.name.as_str(), at)).collect();
    let mut missing = Vec::new();
    let mut edges = Vec::with_capacity(index.modules.len());
    for (at, module) in index.modules.iter().enumerate() {
        let mut list = Vec::new();
        for name in &module.depends {
            match by_name.get(name.as_str()) {
                Some(dependency) => list.push(*dependency),
                None if index.builtin.contains(name) => {}
                None => missing.push((at, name.clone())),
            }
        }
        edges.push(list);
    }
    (edges, missing)
}
