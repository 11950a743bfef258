// Judges a photograph in C++, with a model that llb-ray exported. OpenVINO reads the ONNX file as it is:
//
//   llb-ray export runs/photos --format onnx --any-size --out model.onnx
//   pip install openvino && OV=$(python -c 'import openvino; print(*openvino.__path__)')
//   g++ -std=c++17 examples/judge.cpp -I"$OV/include" "$OV"/libs/libopenvino.so.* -Wl,-rpath,"$OV/libs" -o judge
//   ./judge model.onnx photo.ppm
//
// The photograph is a binary PPM, which needs no library to read; a line has its pixels in memory already.

#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>

#include <openvino/openvino.hpp>

// 8-bit RGB [1, height, width, 3], upright.
ov::Tensor read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    size_t width = 0, height = 0, largest = 0;
    file >> kind >> width >> height >> largest;
    file.get();  // the one blank before the pixels
    ov::Tensor image(ov::element::u8, {1, height, width, 3});
    file.read(static_cast<char*>(image.data()), static_cast<std::streamsize>(image.get_byte_size()));
    if (!file || kind != "P6" || largest != 255) throw std::runtime_error(path + ": not a binary PPM of 8 bits");
    return image;
}

int main(int count, char** words) try {
    if (count != 3) throw std::runtime_error("usage: judge model.onnx photo.ppm");
    ov::CompiledModel model = ov::Core().compile_model(words[1], "CPU", ov::hint::inference_precision(ov::element::f32));
    ov::InferRequest request = model.create_infer_request();
    request.set_tensor("image", read_ppm(words[2]));
    request.infer();

    const float score = request.get_tensor("score").data<const float>()[0];
    const bool anomalous = request.get_tensor("anomalous").data<const bool>()[0];
    const ov::Shape map = request.get_tensor("map").get_shape();  // [1, rows, columns] of anomaly, row by row
    std::cout << score << (anomalous ? " anomalous" : " normal") << ", map " << map[1] << " x " << map[2] << "\n";
} catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
}
